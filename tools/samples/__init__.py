"""The samples, built from the packages that their pictures and words come from."""
