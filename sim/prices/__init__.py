"""What compute and copies take: models' sizes, machines' figures, and the prices that follow from both."""
