"""The full-size recipes, rehearsed on models of real geometry with few layers, on rows in the columns that the hub has."""
