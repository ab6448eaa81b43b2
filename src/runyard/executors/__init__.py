"""The hands: where runs happen. One protocol (`protocol`), one module for each kind of place."""
