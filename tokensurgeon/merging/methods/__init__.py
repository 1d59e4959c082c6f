"""Add merge methods that mergekit lacks, by `tokensurgeon.merging.methods.register.register`.

=====================  =================================================================  =====================
``merge_method``       parameters                                                          paper
=====================  =================================================================  =====================
``fisher``             of each model: ``fisher`` (file), ``weight``; ``floor``              arXiv 2111.09832
``metrics_weighted``   of each model: ``metric``; ``penalty``, ``lower_is_better``          arXiv 2504.18580
``pcb``                ``density``, ``lambda``                                              arXiv 2410.02396
``widen``              ``above_average``, ``score``                                         arXiv 2408.03092
``opcm``               ``alpha``                                                           arXiv 2501.09522
``consensus``          ``k``, ``threshold``, ``lambda``                                    arXiv 2405.07813
``tsvm``               ``rank``, ``lambda``, ``reweight``, ``adaptive``                    arXiv 2412.00081
``optmerge``           ``rank``, ``lambda``, ``ridge``                                     arXiv 2505.19892
``dam``                ``coefficients`` (file)                                             arXiv 2410.08371
``expert``             ``coefficients`` (file)                                             arXiv 2509.25712
``fw``                 ``coefficients`` (file)                                             arXiv 2503.12649
=====================  =================================================================  =====================

``tokensurgeon fisher`` and ``tokensurgeon dam`` make the files. ``pcb``, ``widen``, ``opcm``, ``consensus``, ``tsvm``,
``optmerge`` and ``expert`` need a ``base_model``.

mergekit-yaml has no place for plug-ins: run ``python -m tokensurgeon.merging RECIPE.yaml OUT`` instead, which takes the
same options. The methods' own functions, one file each, see tensors only and work without mergekit.
"""
