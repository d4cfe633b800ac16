"""`python -m cairn_l4lb`."""

from .cli import main

raise SystemExit(main())
