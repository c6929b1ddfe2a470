"""From files to documents, lazily, with the place of every row known."""
