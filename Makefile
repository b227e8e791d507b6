# Every target does its own set-up; it needs python3, make and a C++ compiler, and pip's access to PyPI.
#   demo   install the package with its run-time dependencies only (no torch, no CUDA), run `earmark demo`
#   test   development environment in .venv, package installed in place, all tests
#   lint   ruff, mypy, clang-format
#   docs   the documentation as a site, build/site/docs/index.html; broken links and names are errors
#   bench  latency against other engines, in an environment of its own
#   wheels          releases in dist/: docs/wheels.md
#   wheel-check     a source distribution, a wheel of it without CUDA, and that in a bare environment
#   aarch64-check   the same of aarch64, under an emulator

PYTHON ?= python3
# Of the kernels that tests build, where there is an nvcc.
CUDA_ARCHITECTURE ?= 80
# That wheels are built for; those that are absent are left out.
PYTHONS ?= python3.10 python3.11 python3.12 python3.13

CPP_SOURCES := $(shell find csrc plugins -type f 2>/dev/null)
PYTHON_SOURCES := $(shell find python -type f -not -path '*/__pycache__/*')
BUILD_FILES := CMakeLists.txt pyproject.toml README.md LICENSE
# The emulated instruction set of the test build is in tests/.
TEST_CPP_SOURCES := $(shell find tests -name '*.h' -o -name '*.inl' -o -name '*.cc' -o -name '*.cu')
FORMATTED := $(filter %.h %.inl %.cc %.cu %.cuh,$(CPP_SOURCES) $(TEST_CPP_SOURCES))

.PHONY: demo test lint docs bench wheels wheel-check aarch64-check

demo: .venv-demo/.installed
	.venv-demo/bin/earmark demo

test: .venv/.installed
	OMP_NUM_THREADS=1 .venv/bin/pytest -n auto --dist loadfile --no-loadscope-reorder

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(if $(FORMATTED),.venv/bin/clang-format --dry-run -Werror $(FORMATTED))

docs: .venv/.installed .venv/.docs
	.venv/bin/sphinx-build -q -W --keep-going -b html -c docs . build/site

bench: .venv-bench/.installed
	.venv-bench/bin/python benchmarks/bench_ecapa.py

wheels: .venv-wheels/.installed
	rm -rf dist
	.venv-wheels/bin/python -m build -n --sdist -o dist
	.venv-wheels/bin/python wheels/build_wheels.py --cuda OFF -o dist/cpu $(PYTHONS)
	.venv-wheels/bin/python wheels/check_wheels.py dist/cpu $(PYTHONS)
	.venv-wheels/bin/python wheels/build_wheels.py --cuda ON -o dist $(PYTHONS)
	.venv-wheels/bin/python wheels/check_wheels.py dist $(PYTHONS)
	.venv-wheels/bin/python wheels/build_wheels.py --arch aarch64 --cuda OFF -o dist $(PYTHONS)
	.venv-wheels/bin/python wheels/run_emulated.py dist/*_aarch64.whl

wheel-check: .venv-wheels/.installed
	rm -rf build/wheel-check
	.venv-wheels/bin/python -m build -n --sdist -o build/wheel-check
	.venv-wheels/bin/python wheels/build_wheels.py --cuda OFF -o build/wheel-check \
		--source build/wheel-check/*.tar.gz $(PYTHON)
	.venv-wheels/bin/python wheels/check_wheels.py build/wheel-check $(PYTHON)

aarch64-check: .venv-wheels/.installed
	rm -rf build/aarch64-check
	.venv-wheels/bin/python wheels/build_wheels.py --arch aarch64 --cuda OFF -o build/aarch64-check $(PYTHON)
	.venv-wheels/bin/python wheels/run_emulated.py build/aarch64-check/*.whl

# A target's stamp is newer than what it was made from, so that a second run starts at once.
%/.created:
	$(PYTHON) -m venv $*
	$*/bin/pip install -q --upgrade pip
	touch $@

.venv-demo/.installed: .venv-demo/.created $(CPP_SOURCES) $(PYTHON_SOURCES) $(BUILD_FILES)
	.venv-demo/bin/pip install -q -C cmake.define.EARMARK_CUDA=OFF .
	touch $@

.venv/.dependencies: .venv/.created requirements-dev.txt requirements-speechbrain.txt \
		.venv/toolkits/.installed .venv/tensorrt-lean-10/.installed .venv/tensorrt-lean-11/.installed
	.venv/bin/pip install -q -r requirements-dev.txt
	.venv/bin/pip install -q --no-deps -r requirements-speechbrain.txt
	touch $@

# Other toolkits' code. The compiled part of torchaudio asks for CUDA; without it its Python works, which is what they use.
.venv/toolkits/.installed: requirements-toolkits.txt .venv/.created
	.venv/bin/pip install -q --no-deps --target $(@D) --upgrade -r $<
	rm -rf $(@D)/torchaudio/lib
	touch $@

# Runtimes of TensorRT, of which one environment has no room for two.
.venv/tensorrt-lean-10/.installed: VERSION := 10.16.1.11
.venv/tensorrt-lean-11/.installed: VERSION := 11.4.0.106
.venv/tensorrt-lean-%/.installed: .venv/.created
	.venv/bin/pip install -q --no-deps --target $(@D) --upgrade tensorrt-lean-cu13-libs==$(VERSION)
	touch $@

# Editable: Python sources are used from the tree, only a change in C++ needs a new build. Not stripped, for a test
# reads the machine code. pip would warn that speechbrain lacks torchaudio, which is on purpose.
.venv/.installed: .venv/.dependencies $(CPP_SOURCES) $(TEST_CPP_SOURCES) CMakeLists.txt pyproject.toml
	.venv/bin/pip install -q --no-build-isolation --no-warn-conflicts -C build-dir=build/test \
		-C cmake.define.EARMARK_EMULATED_ISA=ON \
		-C cmake.define.CMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURE) \
		-C install.strip=false -e '.[test,train]'
	touch $@

.venv-wheels/.installed: .venv-wheels/.created wheels/requirements.txt
	.venv-wheels/bin/pip install -q -r wheels/requirements.txt
	touch $@

.venv/.docs: .venv/.created docs/requirements.txt
	.venv/bin/pip install -q -r docs/requirements.txt
	touch $@

.venv-bench/.installed: .venv-bench/.created benchmarks/requirements.txt \
		$(CPP_SOURCES) $(PYTHON_SOURCES) $(BUILD_FILES)
	.venv-bench/bin/pip install -q -r benchmarks/requirements.txt
	.venv-bench/bin/pip install -q '.[torch]'
	touch $@
