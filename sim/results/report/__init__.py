"""One page that holds a comparison: tables, pictures, sentences, provenance and how to reproduce each row."""
