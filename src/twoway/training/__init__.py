"""The trainer: steps over batches on any number of ranks, with exact resume. It knows no data format and no model family."""
