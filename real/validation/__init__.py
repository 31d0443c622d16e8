"""How far a prediction was off: the comparison, its verdict, its picture and its files."""
