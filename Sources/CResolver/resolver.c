#include "CResolver.h"
