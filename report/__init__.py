"""The report: its build, its ledger, its diagrams. Imports ``ssn_core``, which never imports it."""
