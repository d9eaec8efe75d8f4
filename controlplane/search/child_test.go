package search_test

func child(dir string) {}
