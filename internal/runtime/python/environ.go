package python

import (
	"os"
	"slices"
	"strings"
)

// A worker runs what others wrote, and what it answers goes to strangers: of the
// server's environment it gets what programs need to run, and no secrets.

// passed are the names that workers inherit, and passedPrefixes how they begin.
var (
	passed = []string{
		"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "TERM", "COLUMNS", "NO_COLOR",
		"LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NO_PROXY", "no_proxy",
		"HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM",
		"XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "GOTRACEBACK",
	}
	passedPrefixes = []string{
		"PYTHON", "LC_", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "BLIS_", "VECLIB_", "NUMEXPR_", "NUMBA_", "MALLOC_", "JEMALLOC_",
		"CUDA_", "NVIDIA_", "NCCL_", "CUBLAS_", "CUDNN_", "HIP_", "ROCR_", "ROCM_", "HSA_", "XLA_", "TF_", "TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "TRITON_", "ORT_",
	}
	// secret are parts of names that are not passed whatever they begin with.
	secret = []string{"TOKEN", "SECRET", "PASSW", "CREDENTIAL", "API_KEY", "APIKEY", "PRIVATE_KEY", "ACCESS_KEY"}
)

// isPassed reports whether workers inherit a variable.
func (o Options) isPassed(name string) bool {
	if slices.Contains(o.PassEnv, name) || slices.Contains(passed, name) {
		return true
	}
	upper := strings.ToUpper(name)
	begins := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	holds := func(part string) bool { return strings.Contains(upper, part) }
	return slices.ContainsFunc(passedPrefixes, begins) && !slices.ContainsFunc(secret, holds)
}

// inherited is what a worker gets of the server's environment.
func (o Options) inherited() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return !o.isPassed(name)
	})
}

// workerEnvironment is what a worker is started with, and extra.
func (o Options) workerEnvironment(extra map[string]string) []string {
	env := append(o.inherited(), o.User.environment()...)
	return o.withSDK(env, extra)
}

// environment is the server's own, and extra: for a program of its owner.
func (o Options) environment(extra map[string]string) []string { return o.withSDK(os.Environ(), extra) }

// withSDK adds variables, and the SDK's source as the last place where Python looks
// for a package.
func (o Options) withSDK(env []string, extra map[string]string) []string {
	for name, value := range extra {
		env = append(env, name+"="+value)
	}
	if o.SDKDir == "" {
		return env
	}
	path := o.SDKDir
	for _, entry := range env { // the last entry of a name is the one in force
		if old, ok := strings.CutPrefix(entry, "PYTHONPATH="); ok && old != "" {
			path = old + string(os.PathListSeparator) + o.SDKDir
		}
	}
	return append(env, "PYTHONPATH="+path)
}
