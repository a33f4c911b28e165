"""Calibration: quantised bundles, and budgets chosen from data."""
