"""`python -m cairn_dns.proxy`."""

from .cli import main

raise SystemExit(main())
