"""The look of the report's page: quiet, dark on white, for wide screens and telephones."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 24px 20px 64px; background: #fff;
  color: #1c1e21; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 44px 0 8px; padding-top: 12px; border-top: 1px solid #d9dce1; }
h3 { font-size: 1rem; margin: 0 0 4px; }
p { margin: 8px 0; max-width: 72ch; }
.quiet { color: #5a6069; font-size: .9rem; }
.lead { font-size: 1.08rem; }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px 6px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e6e8ec; }
thead th { border-bottom: 1px solid #9aa0a8; font-weight: 600; white-space: nowrap;
  vertical-align: bottom; }
tbody th { font-weight: 500; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
small { color: #5a6069; font-size: .85em; }
.charts { display: grid; gap: 28px 32px; margin: 16px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); }
figure { margin: 0; max-width: 560px; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #43484f; }
svg text.name { fill: #1c1e21; }
.grid { stroke: #e6e8ec; }
.axis { stroke: #9aa0a8; }
.line { fill: none; stroke-width: 1.5; stroke-opacity: .45; }
.whisker { stroke-width: 1.5; }
.band { fill: #eceef1; }
.base { stroke: #3d434a; stroke-width: 1.5; stroke-dasharray: 5 4; }
.base-dot { fill: #3d434a; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 12px 0 0; font-size: .9rem; }
.legend span { display: inline-flex; align-items: center; gap: 7px; }
svg.key { width: 16px; height: 16px; }
.flips { display: grid; gap: 24px 20px; margin: 16px 0;
  grid-template-columns: repeat(auto-fill, minmax(min(230px, 100%), 1fr)); }
.flip { font-size: .9rem; line-height: 1.4; }
.flip img { display: block; width: 100%; max-width: 280px; height: auto; margin-bottom: 6px;
  border-radius: 3px; }
.flip p { margin: 2px 0; overflow-wrap: anywhere; }
.lost { color: #a3300a; }
.gained { color: #00603f; }
details { margin: 8px 0; }
summary { cursor: pointer; font-weight: 500; padding: 4px 0; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
@media (max-width: 600px) {
  body { padding: 16px 14px 48px; }
  h1 { font-size: 1.35rem; }
}
"""
