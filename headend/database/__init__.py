"""What every database of this program shares: how it is connected to, written, read, and asked quickly."""
