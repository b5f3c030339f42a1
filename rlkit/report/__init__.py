"""Statistics of runs; reads run folders only."""
