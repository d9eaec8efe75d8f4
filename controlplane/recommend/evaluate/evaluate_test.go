package evaluate_test

import (
	"os"
	"testing"

	"segue/controlplane/recommend/evaluate"
)

func TestWorlds(t *testing.T) {
	for name, w := range evaluate.Worlds {
		r, err := evaluate.Run(t.Context(), evaluate.Generate(w), evaluate.Options{Most: 1500})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(name, r.TrainedIn, r.Chosen)
		_ = r.Print(os.Stderr)
	}
}
