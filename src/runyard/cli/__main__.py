from __future__ import annotations

from runyard.cli import main

main()
