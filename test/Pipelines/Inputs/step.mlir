// A step of one layer, smaller than any model: embedding, linear layers,
// attention, logits.  Input of stages.mlir.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
#x = affine_map<(m, n, k) -> (m, k)>
#w = affine_map<(m, n, k) -> (n, k)>
#y = affine_map<(m, n, k) -> (m, n)>
#row = affine_map<(i, j) -> (i)>
#all = affine_map<(i, j) -> (i, j)>

pmkvq.weight @embedding : tensor<1000x128xbf16> from "embedding"
pmkvq.weight @query : tensor<256x128xbf16> from "query"
pmkvq.weight @key : tensor<128x128xbf16> from "key"
pmkvq.weight @value : tensor<128x128xbf16> from "value"
pmkvq.weight @output : tensor<128x256xbf16> from "output"

func.func @create() -> !kv {
  %c = pmkvq.create layer 0 max_tokens 8192 : !kv
  return %c : !kv
}

func.func @step(%batch: !pmkvq.batch, %tokens: tensor<?xi32>, %positions: tensor<?xi32>,
                %outputs: tensor<?xi32>, %logits: tensor<?x1000xf32>, %cache: !kv)
    -> (tensor<?x1000xf32>, !kv) {
  %first = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %rows = tensor.dim %tokens, %first : tensor<?xi32>
  %table = pmkvq.get_weight @embedding : tensor<1000x128xbf16>
  %wq = pmkvq.get_weight @query : tensor<256x128xbf16>
  %wk = pmkvq.get_weight @key : tensor<128x128xbf16>
  %wv = pmkvq.get_weight @value : tensor<128x128xbf16>
  %wo = pmkvq.get_weight @output : tensor<128x256xbf16>

  %xe = tensor.empty(%rows) : tensor<?x128xf32>
  %x = linalg.generic {indexing_maps = [#row, #all], iterator_types = ["parallel", "parallel"]} ins(%tokens : tensor<?xi32>) outs(%xe : tensor<?x128xf32>) {
  ^bb0(%token: i32, %o: f32):
    %i = arith.index_cast %token : i32 to index
    %j = linalg.index 1 : index
    %e = tensor.extract %table[%i, %j] : tensor<1000x128xbf16>
    %f = arith.extf %e : bf16 to f32
    linalg.yield %f : f32
  } -> tensor<?x128xf32>

  %qe = tensor.empty(%rows) : tensor<?x256xf32>
  %qz = linalg.fill ins(%zero : f32) outs(%qe : tensor<?x256xf32>) -> tensor<?x256xf32>
  %q = linalg.matmul indexing_maps = [#x, #w, #y] ins(%x, %wq : tensor<?x128xf32>, tensor<256x128xbf16>) outs(%qz : tensor<?x256xf32>) -> tensor<?x256xf32>
  %kz = linalg.fill ins(%zero : f32) outs(%xe : tensor<?x128xf32>) -> tensor<?x128xf32>
  %k = linalg.matmul indexing_maps = [#x, #w, #y] ins(%x, %wk : tensor<?x128xf32>, tensor<128x128xbf16>) outs(%kz : tensor<?x128xf32>) -> tensor<?x128xf32>
  %vz = linalg.fill ins(%zero : f32) outs(%xe : tensor<?x128xf32>) -> tensor<?x128xf32>
  %v = linalg.matmul indexing_maps = [#x, #w, #y] ins(%x, %wv : tensor<?x128xf32>, tensor<128x128xbf16>) outs(%vz : tensor<?x128xf32>) -> tensor<?x128xf32>
  %qh = tensor.expand_shape %q [[0], [1, 2]] output_shape [%rows, 4, 64] : tensor<?x256xf32> into tensor<?x4x64xf32>
  %kh = tensor.expand_shape %k [[0], [1, 2]] output_shape [%rows, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>
  %vh = tensor.expand_shape %v [[0], [1, 2]] output_shape [%rows, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>

  %cache1 = pmkvq.append %cache, %kh, %vh, %batch : !kv, tensor<?x2x64xf32>
  %a = pmkvq.attend %qh, %cache1, %batch scale 0.125 : tensor<?x4x64xf32>, !kv
  %af = tensor.collapse_shape %a [[0], [1, 2]] : tensor<?x4x64xf32> into tensor<?x256xf32>
  %x1 = linalg.matmul indexing_maps = [#x, #w, #y] ins(%af, %wo : tensor<?x256xf32>, tensor<128x256xbf16>) outs(%x : tensor<?x128xf32>) -> tensor<?x128xf32>

  %wanted = tensor.dim %outputs, %first : tensor<?xi32>
  %le = tensor.empty(%wanted) : tensor<?x128xf32>
  %last = linalg.generic {indexing_maps = [#row, #all], iterator_types = ["parallel", "parallel"]} ins(%outputs : tensor<?xi32>) outs(%le : tensor<?x128xf32>) {
  ^bb0(%row: i32, %o: f32):
    %i = arith.index_cast %row : i32 to index
    %j = linalg.index 1 : index
    %e = tensor.extract %x1[%i, %j] : tensor<?x128xf32>
    linalg.yield %e : f32
  } -> tensor<?x128xf32>
  %lz = linalg.fill ins(%zero : f32) outs(%logits : tensor<?x1000xf32>) -> tensor<?x1000xf32>
  %l = linalg.matmul indexing_maps = [#x, #w, #y] ins(%last, %table : tensor<?x128xf32>, tensor<1000x128xbf16>) outs(%lz : tensor<?x1000xf32>) -> tensor<?x1000xf32>
  return %l, %cache1 : tensor<?x1000xf32>, !kv
}
