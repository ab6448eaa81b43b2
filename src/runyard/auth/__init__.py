"""Who may ask: at present, where requests may come from."""
