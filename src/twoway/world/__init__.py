"""Packages of the registries, fetched and checked by hash."""
