#ifndef CRESOLVER_H
#define CRESOLVER_H
#endif
