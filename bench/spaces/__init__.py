"""Large spaces: what a step of each needs, beside eager torch, and a real search of each, made small."""
