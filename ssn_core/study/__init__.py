"""What run folders say: tables, curves, panels, notebooks. Imports ``inspection`` and below."""
