"""What Dosvoces costs and how fast it is, side by side with a floor: `make bench`."""
