package python

import (
	"slices"
	"strings"
	"testing"
)

func TestAWorkerInheritsNoSecrets(t *testing.T) {
	given := map[string]bool{ // whether workers get them
		"SHOAL_TOKEN": false, "SHOAL_SERVER": false, "AWS_SECRET_ACCESS_KEY": false, "AWS_SESSION_TOKEN": false, "GITHUB_TOKEN": false,
		"HF_TOKEN": false, "DATABASE_URL": false, "SSH_AUTH_SOCK": false, "http_proxy": false, "PYTHON_KEYRING_PASSWORD": false,
		"TORCH_API_KEY": false, "PASSED": true, "HF_HOME": true, "OMP_NUM_THREADS": true, "CUDA_VISIBLE_DEVICES": true, "LC_ALL": true,
		"PYTHONUNBUFFERED": true, "MY_CREDENTIALS": true,
	}
	for name := range given {
		t.Setenv(name, "canary")
	}
	env := Options{PassEnv: []string{"PASSED", "MY_CREDENTIALS"}}.workerEnvironment(map[string]string{"EXTRA": "1"})
	for name, want := range given {
		if slices.Contains(env, name+"=canary") != want {
			t.Errorf("%s is passed: %v", name, !want)
		}
	}
	if !slices.Contains(env, "EXTRA=1") || !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		t.Errorf("PATH or EXTRA is missing: %v", env)
	}
}

func TestTheSDKIsTheLastPlace(t *testing.T) {
	t.Setenv("PYTHONPATH", "/mine")
	env := Options{SDKDir: "/sdk"}.workerEnvironment(map[string]string{"PYTHONPATH": "/backend"})
	if env[len(env)-1] != "PYTHONPATH=/backend:/sdk" {
		t.Errorf("env ends with %q", env[len(env)-1])
	}
}

func TestAUserThatDoesNotExist(t *testing.T) {
	if _, err := LookUser("no such user"); err == nil || !strings.Contains(err.Error(), "there is no user") {
		t.Errorf("got %v", err)
	}
}
