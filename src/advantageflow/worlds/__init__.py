"""The embedded defaults: worlds that are drawn, checked by rule and ship a small pre-trained pipeline each."""
