# Set elvsm up on a machine without ROS, run its demo and its tests. With ROS, use colcon build instead (README.md).
#
#   make                  set up: virtual environment, Python packages, compiled ROS interfaces
#   make demo             BAG=path plays a recording of yours, OUT=folder takes the report (demo_out), VIEW=1 serves
#                         a page to fly through the scene meanwhile and afterwards,
#                         DEMO_ARGS="..." goes to elvsm_demo (elvsm_demo --help)
#   make test             TEST_ARGS="test/core -k cache" narrows it; JOBS=2 processes share the tests, 0 is none but pytest
#   make test-fast        the tests that start no process, in a minute or two; the same arguments
#   make docs             build the API reference into build/docs
#   make lint             ruff and mypy
#   make clean            remove what make made; reports of the demo stay
#
# Each step leaves a stamp, so a second call does nothing that the first one did.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := $(CURDIR)/.venv
COLCON_VENV := $(CURDIR)/.venv-colcon
STAMPS := $(VENV)/stamps
BUILD := $(CURDIR)/build/interfaces
OUT ?= demo_out
JOBS ?= 2
EXTRAS := ros,train,eval,viewer,dev
COLCON := colcon-common-extensions==0.3.0 colcon-core==0.21.3 colcon-ros==0.5.0

ifdef ROS_DISTRO
$(info elvsm: ROS 2 $(ROS_DISTRO) is set up in this shell. To use it, put this repository into a workspace and run)
$(info colcon build; make goes on with ROS packages of its own in .venv and leaves $(ROS_DISTRO) alone.)
unexport ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION COLCON_PREFIX_PATH LD_LIBRARY_PATH
endif
unexport PYTHONPATH PYTHONHOME

export VIRTUAL_ENV := $(VENV)
export AMENT_PREFIX_PATH := $(VENV)
export CMAKE_PREFIX_PATH := $(VENV)
export RMW_IMPLEMENTATION := rmw_fastrtps_cpp
# Whatever runs here must not reach a robot on the same network, and large images must arrive: the file says more.
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export FASTDDS_DEFAULT_PROFILES_FILE := $(CURDIR)/config/fastdds_localhost.xml
export FASTDDS_BUILTIN_TRANSPORTS := LARGE_DATA
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONNOUSERSITE := 1

PIP := $(VENV)/bin/python -m pip -qq
RUN := PATH="$(VENV)/bin:$$PATH"
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: setup venv interfaces demo test test-fast docs lint format clean

setup: $(STAMPS)/interfaces
	@echo "elvsm: ready in .venv; go on with make demo or make test"

venv: $(STAMPS)/packages
interfaces: $(STAMPS)/interfaces

$(STAMPS)/python:
	@tools/check_machine.sh "$(PYTHON)"
	@echo "elvsm: making .venv with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv "$(VENV)"
	@[[ ! -e "$(BUILD)/CMakeCache.txt" ]] || rm -rf "$(BUILD)"
	@mkdir -p "$(STAMPS)" && touch "$@"

# Without a GPU, PyTorch's own index saves gigabytes of CUDA libraries; where it cannot be reached, any build will do.
$(STAMPS)/torch: constraints.txt $(STAMPS)/python
	@index=; \
	if nvidia-smi -L > /dev/null 2>&1; then \
	  echo "elvsm: installing PyTorch with CUDA (several gigabytes)"; \
	elif timeout 3 "$(VENV)/bin/python" -c \
	  'import urllib.request as r; r.urlopen("$(TORCH_CPU_INDEX)/torch/", timeout=3)' > /dev/null 2>&1; then \
	  echo "elvsm: installing PyTorch for the CPU"; index="--retries 1 --extra-index-url $(TORCH_CPU_INDEX)"; \
	else \
	  echo "elvsm: installing PyTorch (PyTorch's own index does not answer; another build may be larger)"; \
	fi; \
	$(PIP) install -c constraints.txt torch torchvision setuptools $$index || \
	  { [[ -n "$$index" ]] && $(PIP) install -c constraints.txt torch torchvision setuptools; }
	@touch "$@"

$(STAMPS)/packages: pyproject.toml setup.py constraints.txt $(STAMPS)/torch
	@echo "elvsm: installing Python packages"
	@$(PIP) install -c constraints.txt --no-build-isolation -e ".[$(EXTRAS)]"
	@touch "$@"

$(STAMPS)/interfaces: $(wildcard msg/* srv/* action/* cmake/* examples/* launch/*.py launch/*/*.py config/*.* config/*/*.*) CMakeLists.txt package.xml \
    $(STAMPS)/packages
	@echo "elvsm: compiling the ROS interfaces"
	@$(RUN) cmake -S . -B "$(BUILD)" -G Ninja --log-level=WARNING -DCMAKE_PROJECT_INCLUDE="$(CURDIR)/cmake/wheel_fixups.cmake" \
	  -DPython3_EXECUTABLE="$(VENV)/bin/python" -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$(VENV)" \
	  -DELVSM_INTERFACES_ONLY=ON > "$(STAMPS)/cmake.log" || { cat "$(STAMPS)/cmake.log"; exit 1; }
	@$(RUN) cmake --build "$(BUILD)" > "$(STAMPS)/build.log" || { cat "$(STAMPS)/build.log"; exit 1; }
	@$(RUN) cmake --install "$(BUILD)" > "$(STAMPS)/install.log" || { cat "$(STAMPS)/install.log"; exit 1; }
# The generated module `elvsm` comes with metadata under the project's own name; pip would take one for the other.
	@rm -rf "$(VENV)"/lib/python*/site-packages/elvsm-*.egg-info
	@touch "$@"

# colcon needs an older setuptools than the rest, and nothing of it belongs into the environment that it builds against.
$(COLCON_VENV)/stamp: Makefile $(STAMPS)/python
	@echo "elvsm: installing colcon for the tests"
	@"$(PYTHON)" -m venv "$(COLCON_VENV)"
	@"$(COLCON_VENV)/bin/python" -m pip -qq install $(COLCON)
	@touch "$@"

# What the tests of the viewer's page need; without one, and without a network to fetch one from, they are skipped.
$(STAMPS)/browser: tools/browser.py $(STAMPS)/packages
	@$(VENV)/bin/python tools/browser.py "$(VENV)/browser"
	@if [[ -x "$(VENV)/browser/chromium" ]]; then touch "$@"; fi

demo: $(STAMPS)/interfaces
	@$(RUN) elvsm_demo --out "$(OUT)" $(if $(BAG),--bag "$(BAG)") $(if $(VIEW),--view) $(DEMO_ARGS)

test: $(STAMPS)/interfaces $(COLCON_VENV)/stamp $(STAMPS)/browser
	@$(RUN) ELVSM_COLCON="$(COLCON_VENV)/bin/colcon" python -m pytest -n $(JOBS) --dist loadfile $(TEST_ARGS) $(PYTEST_ARGS)

# Without the marks of pyproject.toml.
test-fast: $(STAMPS)/interfaces
	@$(RUN) python -m pytest -n $(JOBS) --dist loadfile -m "not ros and not gpu and not slow and not browser" $(TEST_ARGS) $(PYTEST_ARGS)

$(STAMPS)/docs: $(STAMPS)/packages
	@echo "elvsm: installing Sphinx"
	@$(PIP) install -c constraints.txt --no-build-isolation -e ".[docs]"
	@touch "$@"

docs: $(STAMPS)/docs $(STAMPS)/interfaces
	@$(RUN) python -m sphinx -W --keep-going -q docs/api build/docs
	@echo "elvsm: build/docs/index.html"

lint: $(STAMPS)/packages
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy

format: $(STAMPS)/packages
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

# Folders that carry what make, colcon or the demo write into them, and no others, whatever is called like them.
clean:
	@for folder in "$(VENV)" "$(COLCON_VENV)"; do [[ ! -e "$$folder/pyvenv.cfg" ]] || rm -rf "$$folder"; done
	@[[ ! -e "$(BUILD)/CMakeCache.txt" ]] || rm -rf "$(BUILD)"
	@for folder in build install log; do [[ ! -e "$$folder/COLCON_IGNORE" ]] || rm -rf "$$folder"; done
	@[[ ! -d build ]] || rmdir --ignore-fail-on-non-empty build
	rm -rf elvsm.egg-info .pytest_cache .mypy_cache .ruff_cache
	@for folder in build install log dist demo_out; do [[ ! -e "$$folder" ]] || echo "elvsm: $$folder stays: delete it yourself"; done
