"""From register reads to interval values, and whether what a meter says can be true. Pure: facts and times are arguments."""
