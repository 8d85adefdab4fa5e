//go:build !race

#include "textflag.h"

// SPECIAL sets the bytes of X to 0xff that are special, and the others to 0. It changes T.
// c^2 < 0x21 as a signed byte is true exactly for quotes, control characters and bytes
// that are not ASCII. X8 has 2 in each byte, X9 has 0x21, X10 has '\\'^2.
#define SPECIAL(X, T) \
	PXOR    X8, X \
	MOVO    X9, T \
	PCMPGTB X, T  \
	PCMPEQB X10, X \
	POR     T, X

// func plainSSE2(p *byte, n int) int
TEXT ·plainSSE2(SB), NOSPLIT, $0-24
	MOVQ   p+0(FP), SI
	MOVQ   n+8(FP), CX
	MOVQ   $0x0202020202020202, AX
	MOVQ   $0x2121212121212121, BX
	MOVQ   $0x5e5e5e5e5e5e5e5e, DX
	MOVQ   AX, X8
	MOVQ   BX, X9
	MOVQ   DX, X10
	PUNPCKLQDQ X8, X8
	PUNPCKLQDQ X9, X9
	PUNPCKLQDQ X10, X10
	XORQ   DI, DI
	LEAQ   -16(CX), R9 // the last index at which a block of 16 bytes fits
	LEAQ   -64(CX), R8 // ... and four of them
	JMP    test4

four:
	MOVOU  (SI)(DI*1), X0
	MOVOU  16(SI)(DI*1), X1
	MOVOU  32(SI)(DI*1), X2
	MOVOU  48(SI)(DI*1), X3
	SPECIAL(X0, X4)
	SPECIAL(X1, X5)
	SPECIAL(X2, X6)
	SPECIAL(X3, X7)
	POR    X0, X1
	POR    X2, X3
	MOVO   X1, X4
	POR    X3, X4
	PMOVMSKB X4, AX
	TESTL  AX, AX
	JNZ    test1 // one of the four blocks has a special byte
	ADDQ   $64, DI
test4:
	CMPQ   DI, R8
	JLE    four
	JMP    test1

one:
	MOVOU  (SI)(DI*1), X0
	SPECIAL(X0, X4)
	PMOVMSKB X0, AX
	BSFL   AX, AX
	JNZ    found
	ADDQ   $16, DI
test1:
	CMPQ   DI, R9
	JLE    one
	CMPQ   DI, CX
	JGE    none
	MOVQ   R9, DI // the last block overlaps bytes that are plain
	JMP    one

none:
	MOVQ   CX, ret+16(FP)
	RET

found:
	ADDQ   AX, DI
	MOVQ   DI, ret+16(FP)
	RET

// func unmaskSSE2(p *byte, n int, key uint64)
TEXT ·unmaskSSE2(SB), NOSPLIT, $0-24
	MOVQ   p+0(FP), SI
	MOVQ   n+8(FP), CX
	MOVQ   key+16(FP), X8
	PUNPCKLQDQ X8, X8

mask:
	MOVOU  (SI), X0
	MOVOU  16(SI), X1
	MOVOU  32(SI), X2
	MOVOU  48(SI), X3
	PXOR   X8, X0
	PXOR   X8, X1
	PXOR   X8, X2
	PXOR   X8, X3
	MOVOU  X0, (SI)
	MOVOU  X1, 16(SI)
	MOVOU  X2, 32(SI)
	MOVOU  X3, 48(SI)
	ADDQ   $64, SI
	SUBQ   $64, CX
	JNZ    mask
	RET
