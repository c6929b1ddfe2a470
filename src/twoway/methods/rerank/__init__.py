"""Reranking: a query and a candidate in one row, and one score; on the shared skeleton of training stages."""
