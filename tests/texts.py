"""Small graphs in ONNX text that several tests use."""

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
CHAIN = HEADER + "g (float[N,4] x) => (float[N,4] y) <float[4] w = {1,2,3,4}> { a = Add(x, w) y = Relu(a) }"
BRANCH = (
    HEADER
    + """g (float[4] x, bool c) => (float[4] y) {
    a = Neg(x)
    y = If(c) <then_branch = t () => (float[4] p) { p = Relu(a) },
               else_branch = e () => (float[4] q) { q = Abs(a) }>
}"""
)
