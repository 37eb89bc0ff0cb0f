"""Trunk, upscaling, detectors in their plain form, noise, losses: what the papers write. Knows no configuration;
imports ``data`` only."""
