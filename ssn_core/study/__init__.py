"""What run folders say: tables, curves, panels, notebooks. Imports ``runs`` and below."""
