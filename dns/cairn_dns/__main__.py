"""`python -m cairn_dns`."""

from .cli import main

raise SystemExit(main())
