//! Runs inference-lab's engine over several workers of one configuration file.
//!
//! `inference-lab-replicas CONFIG.toml WORKERS` makes WORKERS engines of one GPU each of the file's, and prints
//! what they did. The loop is that of its own `Simulator` (arrivals no later than the next event, one step at a
//! time) without its metrics, so nothing but the engine is timed.

use inference_lab::config::{ClusterSpec, Config};
use inference_lab::request::RequestGenerator;
use inference_lab::simulation::{Engine, Topology};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: inference-lab-replicas CONFIG.toml WORKERS")?;
    let workers = args.next().map_or(Ok(1), |text| text.parse())?;
    let mut config = Config::from_file(&path)?;
    // One GPU each, with a KV cache and as many sequences as our replicas have.
    config.parallel.tp = 1;
    config.hardware.kv_cache_capacity = 0; // finalize() sizes it again.
    config.scheduler.max_num_seqs = 256;
    config.finalize();
    let config = config;
    let cluster = ClusterSpec {
        hardware: config.hardware.clone(),
        parallel: config.parallel.clone(),
        comms: None,
        num_workers: workers,
        node: 0,
    };
    let topology = Topology::aggregated(cluster, config.model.clone(), config.scheduler.clone())?;
    let mut requests = RequestGenerator::new(config.workload.clone());
    let mut engine = Engine::new(topology);
    if let Some(speculative) = &config.speculative {
        engine.enable_speculative(speculative.clone(), config.workload.seed);
    }

    let (mut ended, mut tokens, mut prompt) = (0u64, 0u64, 0u64);
    let (mut ttft, mut tpot, mut e2e) = (0.0, 0.0, 0.0);
    let (mut passes, mut rows) = (0u64, 0u64);
    loop {
        // The Simulator's own rule: whatever arrives by the generator's next time goes in.
        let bound = requests.peek_next_arrival_time().max(engine.current_time()) + 1e-9;
        while let Some(request) = requests.next_if_before(bound) {
            engine.submit(request);
        }
        if engine.next_event_time().is_none() {
            break;
        }
        let outcome = engine.step()?;
        if let Some(iteration) = &outcome.iteration {
            passes += 1;
            rows += iteration.progress.len() as u64;
        }
        for timing in &outcome.completions {
            ended += 1;
            tokens += u64::from(timing.num_output_tokens);
            prompt += u64::from(timing.num_prompt_tokens);
            ttft += timing.ttft();
            e2e += timing.e2e();
            tpot += timing.tpot().unwrap_or(0.0);
        }
    }
    let n = ended as f64;
    println!("requests {ended}, prompt tokens {prompt}, output tokens {tokens}, end {:.2} s", engine.current_time());
    println!("passes {passes}, rows of passes {rows}, mean running {:?}", engine.pool_batch_means());
    println!("mean TTFT {:.2} ms, mean TPOT {:.3} ms, mean E2E {:.1} ms", 1e3 * ttft / n, 1e3 * tpot / n, 1e3 * e2e / n);
    Ok(())
}
