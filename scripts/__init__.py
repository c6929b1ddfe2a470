"""What the set-up and the documentation need besides the package; run from the checkout's root."""
