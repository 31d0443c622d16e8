"""What a run leaves: the document, the store, tables, comparisons, pictures, reports."""
