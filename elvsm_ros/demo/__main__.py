"""python -m elvsm_ros.demo"""

import sys

from elvsm_ros.demo import main

sys.exit(main())
