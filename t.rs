use rand::RngExt as _; pub fn g(){ let _: Vec<u8> = rand::rng().sample_iter(rand::distr::Alphanumeric).take(3).collect(); }
