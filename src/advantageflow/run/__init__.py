"""A run's folder, what is written there and what is shown of it while it trains: no file here knows a method."""
