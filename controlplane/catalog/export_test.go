package catalog

// SplitArtists shows splitArtists as role:join:name.
func SplitArtists(tag string) []string {
	var out []string
	for _, c := range splitArtists(tag) {
		s := c.role + ":"
		if c.join != "" {
			s += c.join + ":"
		}
		out = append(out, s+c.name)
	}
	return out
}

// SortKey shows sortKey.
func SortKey(name string) string { return sortKey(name) }
