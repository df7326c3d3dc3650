"""Offline wheels: targets, their locks, and the bundles that a machine without a package index installs from."""
