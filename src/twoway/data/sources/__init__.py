"""Where rows come from: files, PDFs, Parquet and data sets of the hub, the samples; and the formats that people write them in."""
