"""The front doors. Thin: each maps words and shapes, the rules are in core."""
