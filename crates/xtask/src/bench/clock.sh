# From empty once more, where time is the clock's and there are two processors.
in_a_host fill --services 10000 | sed 's/^figure /figure clock-/'
