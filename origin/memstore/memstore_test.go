package memstore_test

import (
	"testing"

	"segue/origin"
	"segue/origin/memstore"
	"segue/origin/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) origin.Store { return &memstore.Store{} })
}
