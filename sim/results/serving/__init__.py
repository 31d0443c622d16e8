"""What came of serving: latencies as users feel them, throughput, and goodput under objectives."""
