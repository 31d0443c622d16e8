"""The highest rate of arrivals at which a share of the requests keeps within its objectives."""
