"""Commands of the repository that the installed package does not have; they import it, and it never imports them."""
