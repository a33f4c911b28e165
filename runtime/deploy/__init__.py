"""A bundle on the serving stacks that people run already, and on boxes of their own."""
