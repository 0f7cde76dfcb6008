"""python -m elvsm_ros.viewer"""

import sys

from elvsm_ros.viewer import main

sys.exit(main())
